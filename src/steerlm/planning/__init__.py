"""What a recipe needs, before it runs: memory per device, time, cost, the largest batch that fits (`steerlm plan`)."""
