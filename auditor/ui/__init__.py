"""The window: the only room that knows Qt. `app` starts it, `session` is what panes share, `panes` lists them."""
