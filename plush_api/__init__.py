"""What people and programs talk to: the command line, the client, the embedded stack, the demo."""
