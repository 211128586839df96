"""A project and what it asks: settings, members, guidelines, questions, prompts."""
