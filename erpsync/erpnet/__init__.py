"""The ERP.net client and the authorised transport under it; knows no identity."""
