"""Parts that panes are built from; none of them knows a project, an artefact or a model."""
