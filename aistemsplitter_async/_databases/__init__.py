"""Databases that several processes or machines share: their URLs, their optional clients, and connections to them."""
