"""`unfreeze review`: a page on which a person confirms or corrects what a server has recorded."""
