"""The integration loop and step size control."""
