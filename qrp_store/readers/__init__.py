"""Files as people have them: arrays, images, labels and groupings, read in bounded memory."""
