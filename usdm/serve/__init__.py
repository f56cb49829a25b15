"""A server to talk to: the OpenAI Realtime protocol over a WebSocket, many sessions on one model."""
