"""What NVIDIA's Deep Learning Accelerator (DLA) of Jetson boards takes, and graphs rewritten for it."""
