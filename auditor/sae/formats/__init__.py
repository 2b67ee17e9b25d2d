"""Dictionary folders of the field's tools, one file per format, read and written as safetensors and JSON only."""
