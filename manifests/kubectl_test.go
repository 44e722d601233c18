package manifests

// kubectl is what `kubectl get pods,ns,netpol,cnp,nodes -A -o yaml` prints,
// shortened in length but not in kinds of fields.
const kubectl = `apiVersion: v1
items:
- apiVersion: v1
  kind: Pod
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{},"name":"db-0","namespace":"shop"}}
    creationTimestamp: "2026-08-01T10:00:00Z"
    generateName: db-
    labels:
      app: db
      apps.kubernetes.io/pod-index: "0"
    managedFields:
    - apiVersion: v1
      fieldsType: FieldsV1
      fieldsV1:
        f:metadata:
          f:labels:
            .: {}
            f:app: {}
          f:ownerReferences:
            .: {}
            k:{"uid":"5f1c9bb4-5a76-4d5f-9b52-8ff2d52e8a35"}: {}
      manager: kube-controller-manager
      operation: Update
      time: "2026-08-01T10:00:00Z"
    name: db-0
    namespace: shop
    ownerReferences:
    - apiVersion: apps/v1
      blockOwnerDeletion: true
      controller: true
      kind: StatefulSet
      name: db
      uid: 5f1c9bb4-5a76-4d5f-9b52-8ff2d52e8a35
    resourceVersion: "1234"
    uid: 0c0e6a4c-3a86-4f2f-9d69-6a1e1a0c1f10
  spec:
    containers:
    - image: postgres:17
      imagePullPolicy: IfNotPresent
      livenessProbe:
        failureThreshold: 3
        httpGet:
          path: /healthz
          port: probe
          scheme: HTTP
      name: db
      ports:
      - containerPort: 5432
        name: postgres
        protocol: TCP
      resources:
        limits:
          cpu: 500m
          memory: 1Gi
        requests:
          cpu: "0.5"
          memory: 1073741824
      volumeMounts:
      - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
        name: kube-api-access-x
        readOnly: true
    nodeName: worker-1
    tolerations:
    - effect: NoExecute
      key: node.kubernetes.io/not-ready
      operator: Exists
      tolerationSeconds: 300
    volumes:
    - name: kube-api-access-x
      projected:
        defaultMode: 420
        sources:
        - serviceAccountToken:
            expirationSeconds: 3607
            path: token
  status:
    conditions:
    - lastProbeTime: null
      lastTransitionTime: "2026-08-01T10:00:05Z"
      status: "True"
      type: Ready
    containerStatuses:
    - name: db
      ready: true
      restartCount: 0
      image: postgres:17
      imageID: ""
      started: true
      state:
        running:
          startedAt: "2026-08-01T10:00:04Z"
    hostIP: 192.168.0.11
    phase: Running
    podIP: 10.244.1.7
    podIPs:
    - ip: 10.244.1.7
    - ip: fd00:10:244:1::7
    qosClass: Burstable
    startTime: "2026-08-01T10:00:01Z"
- apiVersion: v1
  kind: Namespace
  metadata:
    creationTimestamp: "2026-08-01T09:00:00Z"
    labels:
      kubernetes.io/metadata.name: shop
      team: shop
    name: shop
    resourceVersion: "3"
    uid: a
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    creationTimestamp: "2026-08-01T09:30:00Z"
    generation: 2
    name: db
    namespace: shop
  spec:
    ingress:
    - from:
      - namespaceSelector: {}
        podSelector:
          matchExpressions:
          - key: app
            operator: In
            values:
            - web
      - ipBlock:
          cidr: 10.0.0.0/8
          except:
          - 10.1.0.0/16
      ports:
      - port: postgres
        protocol: TCP
      - endPort: 6010
        port: 6000
        protocol: TCP
    podSelector:
      matchLabels:
        app: db
    policyTypes:
    - Ingress
- apiVersion: policy.networking.k8s.io/v1beta1
  kind: ClusterNetworkPolicy
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"policy.networking.k8s.io/v1beta1","kind":"ClusterNetworkPolicy","metadata":{"annotations":{},"name":"metadata"}}
    creationTimestamp: "2026-08-01T09:40:00Z"
    generation: 1
    name: metadata
    resourceVersion: "99"
    uid: 3f8f2c1e-6a3c-44a1-8f50-5f0f4e1b7a10
  spec:
    egress:
    - action: Deny
      name: metadata
      protocols:
      - tcp:
          destinationPort:
            number: 80
      to:
      - networks:
        - 169.254.169.254/32
    priority: 10
    subject:
      namespaces: {}
    tier: Admin
  status:
    conditions:
    - lastTransitionTime: "2026-08-01T09:40:01Z"
      message: ""
      observedGeneration: 1
      reason: Accepted
      status: "True"
      type: Accepted
- apiVersion: v1
  kind: Node
  metadata:
    annotations:
      node.alpha.kubernetes.io/ttl: "0"
    labels:
      node-role.kubernetes.io/control-plane: ""
    name: worker-1
  spec:
    podCIDR: 10.244.1.0/24
    podCIDRs:
    - 10.244.1.0/24
    - fd00:10:244:1::/64
    taints:
    - effect: NoSchedule
      key: node-role.kubernetes.io/control-plane
  status:
    addresses:
    - address: 192.168.0.11
      type: InternalIP
    allocatable:
      cpu: "4"
      memory: 8131904Ki
    daemonEndpoints:
      kubeletEndpoint:
        Port: 10250
    images:
    - names:
      - registry.k8s.io/pause:3.10
      sizeBytes: 319000
    nodeInfo:
      architecture: amd64
      bootID: ""
      containerRuntimeVersion: containerd://2.0
      kernelVersion: "6.18"
      kubeProxyVersion: ""
      kubeletVersion: v1.37.0
      machineID: ""
      operatingSystem: linux
      osImage: x
      systemUUID: ""
kind: List
metadata:
  resourceVersion: ""
`
