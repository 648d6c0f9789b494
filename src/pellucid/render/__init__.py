"""Pictures. The only room that normalises maps and knows colours; importing it loads neither torch nor matplotlib."""
