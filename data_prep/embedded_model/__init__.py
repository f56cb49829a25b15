"""What only the embedded model's recipe needs: dialogs of a narrow domain, small talk, and the synthesisers' bindings."""
