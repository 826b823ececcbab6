"""The ready-made plugins, one a folder; they use only what `from erpsync import …` gives."""
