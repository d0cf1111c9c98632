"""The mmengine and mmdet side of the package; importing it registers the plugin."""
