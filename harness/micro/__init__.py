"""The micro study: a tiny real vision-language model that learns and forgets on two CPU cores."""
