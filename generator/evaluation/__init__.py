"""How well adapters know their documents."""
