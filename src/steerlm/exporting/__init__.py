"""Models made ready for others: a Hugging Face folder with a card, for the hub, vLLM, llama.cpp and Ollama."""
