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
