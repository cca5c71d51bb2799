"""A separate descriptor pool for the Open Inference Protocol.

Other packages, for example tritonclient, register messages of the same names in protobuf's default pool. A pool allows
each name once, so without a separate pool the second import in a process would fail.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
