"""The vocabulary: frozen values, pure rules and the error tree; standard library only."""
