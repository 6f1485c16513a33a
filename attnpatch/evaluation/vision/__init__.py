"""Tasks with pictures: prompts through the model's processor, answers scored for hallucination."""
