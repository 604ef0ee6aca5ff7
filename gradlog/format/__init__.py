"""What a stored run is: names, records and bounds of format 1. Nothing here touches a file."""
