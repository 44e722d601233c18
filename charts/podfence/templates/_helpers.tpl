{{/* What names begin with: 63 characters at most with the longest end, as in a DNS label. */}}
{{- define "podfence.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{- .Values.fullnameOverride | default $name | trunc 57 | trimSuffix "-" -}}
{{- end -}}

{{- define "podfence.agent" -}}
{{- include "podfence.name" . -}}-agent
{{- end -}}

{{- define "podfence.uninstall" -}}
{{- include "podfence.name" . | trunc 53 | trimSuffix "-" -}}-uninstall
{{- end -}}

{{- define "podfence.statusWriter" -}}
{{- include "podfence.name" . | trunc 49 | trimSuffix "-" -}}-status-writer
{{- end -}}

{{/* Whether the status of ClusterNetworkPolicies is written: if so, not empty. Values that are
kept from a chart of before don't say it. */}}
{{- define "podfence.writesStatus" -}}
{{- if dig "status" "enabled" true (.Values.clusterNetworkPolicies | default dict) -}}
true
{{- end -}}
{{- end -}}

{{/* Not in a DNS label: nothing is cut off. */}}
{{- define "podfence.podaddresses" -}}
{{- include "podfence.name" . -}}-podaddresses
{{- end -}}

{{/* Whether agents may announce new pods' addresses to those of other nodes: if so, not
empty. Before Kubernetes 1.30 the API server knows no ValidatingAdmissionPolicy, and would
refuse the release; the agents there find that announcements are not safe, and leave them.
Values that are kept from a chart of before have no peersFirst. */}}
{{- define "podfence.announces" -}}
{{- $when := .Values.cni.peersFirst | default "" -}}
{{- if and (ne .Values.cni.mode "none") (ne $when "off") -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
true
{{- else if eq $when "require" -}}
{{- fail (printf "cni.peersFirst is require, for which Kubernetes must be 1.30 or newer, and it is %s: no pod would start" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What both containers of the uninstaller have. */}}
{{- define "podfence.uninstaller" -}}
image: {{ include "podfence.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  runAsUser: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
    - ALL
    add:
    - NET_ADMIN
  seccompProfile:
    type: RuntimeDefault
  {{- with .Values.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
volumeMounts:
- name: cni-conf
  mountPath: /etc/cni/net.d
- name: cni-bin
  mountPath: /opt/cni/bin
- name: cni-data
  mountPath: /var/lib/cni
- name: run
  mountPath: /run/podfence
{{- end -}}

{{/* The name of the dashboard's ConfigMap. */}}
{{- define "podfence.dashboard" -}}
{{- include "podfence.name" . | trunc 53 | trimSuffix "-" -}}-dashboard
{{- end -}}

{{/* What all containers run. With a digest, the tag is for those who read it. */}}
{{- define "podfence.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- with .Values.image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{/* Whether metrics are served where others than the node itself can read them: if so, not empty. */}}
{{- define "podfence.servesMetrics" -}}
{{- if or .Values.metrics.prometheus.enabled .Values.metrics.prometheus.annotations -}}
true
{{- end -}}
{{- end -}}

{{/* The annotations by which a Prometheus without the operator finds the metrics of a pod. */}}
{{- define "podfence.scraped" -}}
{{- if .Values.metrics.prometheus.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9478"
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{/* What the objects of `helm test` are called. */}}
{{- define "podfence.test" -}}
{{- include "podfence.name" . -}}-test
{{- end -}}

{{/* What both of its pods have: nothing that Pod Security's "restricted" does not admit. */}}
{{- define "podfence.testPod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (.Values.test | default dict).tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
terminationGracePeriodSeconds: 1
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* And both of their containers. */}}
{{- define "podfence.testContainer" -}}
image: {{ include "podfence.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
    - ALL
resources:
  requests:
    cpu: 10m
    memory: 32Mi
  limits:
    memory: 128Mi
{{- end -}}
