"""An example of the KServe manifests that serve a model, to be adapted to the cluster."""

import re

_LONGEST_NAME = 63


def kserve_yaml(name: str) -> str:
    """Write a ServingRuntime that runs this server and an InferenceService that serves a model with it.

    KServe mounts the model repository at `/mnt/models` and speaks the Open Inference Protocol over gRPC to port 8081.

    Args:
        name: the model's name in its repository.
    """
    return f"""\
# An example: remove the line above, fill in your container image and your model repository, then run
#   kubectl apply -f kserve.yaml
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: unfreeze
spec:
  supportedModelFormats:
    - name: unfreeze
      version: "1"
      autoSelect: true
  protocolVersions:
    - grpc-v2
  containers:
    - name: kserve-container
      image: unfreeze:latest
      command: [unfreeze, serve]
      # --insecure: the mesh's sidecar terminates TLS; without a mesh, use --tls-cert and --tls-key instead
      args: [--repository, /mnt/models, --host, 0.0.0.0, --port, "8081", --insecure]
      ports:
        - name: h2c
          containerPort: 8081
          protocol: TCP
      readinessProbe:
        grpc:
          port: 8081
      resources:
        requests: {{cpu: "2", memory: 2Gi}}
        limits: {{memory: 4Gi}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: "{_kubernetes_name(name)}"
spec:
  predictor:
    model:
      modelFormat:
        name: unfreeze
      protocolVersion: grpc-v2
      runtime: unfreeze
      storageUri: pvc://models
"""


def _kubernetes_name(name: str) -> str:
    """Make a valid Kubernetes name: lower case letters, digits and hyphens, beginning with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"model-{plain}")[:_LONGEST_NAME].rstrip("-")
