"""What several folders of tests need: small pictures, small runs, real servers in processes of their own."""
