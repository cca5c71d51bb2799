"""The same models over HTTP: the Open Inference Protocol as REST, a call that takes image files, and a page to try."""
