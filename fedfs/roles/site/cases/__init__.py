"""Page of validation cases with pictures, which stays at the site."""
