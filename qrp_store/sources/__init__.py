"""Where embeddings come from: arrays in files, and images through a frozen backbone."""
