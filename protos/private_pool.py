"""A descriptor pool of our own for the Open Inference Protocol.

Other packages (tritonclient for one) register messages of the very same names in protobuf's default pool, which
allows a name once per process; whoever came second would crash.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
