"""Knowledge by multiple choice: lm-eval's tasks in text, and the same questions asked as turns of a dialog."""
