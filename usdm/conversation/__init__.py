"""Conversations with a server over the real WebSocket and in real time, and what they say of it."""
