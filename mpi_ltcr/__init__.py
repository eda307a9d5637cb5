"""Teams of reinforcement-learning agents that learn from each other, one MPI rank per agent."""

__version__ = "0.1.0"
