"""What py-spiffe, whose gRPC is the C core, gets from a Workload API: SVID, bundles and a token."""

import sys

from spiffe import WorkloadApiClient, X509Source

address = sys.argv[1]
client = WorkloadApiClient(socket_path=address)
svid = client.fetch_x509_svid()
client.fetch_x509_bundles()
token = client.fetch_jwt_svid(audience={"test"})
validated = client.validate_jwt_svid(token=token.token, audience="test")
with X509Source(socket_path=address) as source:
    ids = {svid.spiffe_id, token.spiffe_id, validated.spiffe_id, source.get_x509_context().default_svid.spiffe_id}
assert len(ids) == 1, ids
print(ids.pop())
