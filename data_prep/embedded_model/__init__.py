"""What only the embedded model's recipe needs: a narrow domain's dialogs, small talk, bindings of synthesisers."""
