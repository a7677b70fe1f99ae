"""What is done with the game's data and the network: training, watching, acting."""
