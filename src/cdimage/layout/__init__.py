"""OCI image layouts: directories that hold images, with no daemon."""
