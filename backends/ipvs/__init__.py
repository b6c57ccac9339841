"""Services as IPVS virtual servers, with side rules in an nftables table of our own. See README.md."""
