"""What both vLLM teachers share: engine options, the serving script, the process guard."""
