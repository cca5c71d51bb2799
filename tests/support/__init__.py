"""What several folders of tests need: small images, small runs, real servers in processes of their own."""
