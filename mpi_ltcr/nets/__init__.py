"""Torch modules: torsos and heads. Initialised from a generator that is handed in, never from the global one."""
