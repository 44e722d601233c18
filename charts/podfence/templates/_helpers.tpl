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
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
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
