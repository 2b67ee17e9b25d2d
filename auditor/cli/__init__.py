"""The command line: the same verbs as the window, their options made from the same configs."""
