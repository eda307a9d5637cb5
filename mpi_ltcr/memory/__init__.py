"""What is remembered: private replay, and the public memory M0. numpy only; no torch, no MPI."""
