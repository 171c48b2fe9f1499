"""The program `ps-launch`: a server and its workers on this machine."""
