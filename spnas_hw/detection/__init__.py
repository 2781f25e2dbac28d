"""How good it is: the only room that knows mmdet."""
