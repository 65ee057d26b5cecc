{{- define "entitlements.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "entitlements.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: service
{{- end }}

{{- define "entitlements.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "entitlements.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository is not set: build the image with `docker build .`, push it to your registry, and name it here" $image.repository -}}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "entitlements.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "entitlements.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The pod of a Job, up to its containers. */}}
{{- define "entitlements.job.pod" -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "entitlements.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The container of a Job, without its name, arguments and variables. */}}
{{- define "entitlements.job.container" -}}
image: {{ include "entitlements.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "entitlements.containerSecurity" . | nindent 2 }}
resources:
  requests: { cpu: 50m, memory: 32Mi }
  limits: { memory: 128Mi }
{{- end }}

{{- /* Who may call: the variables, and the files that they name. */}}
{{- define "entitlements.access.env" -}}
{{- $access := .Values.access -}}
{{- if and $access.clientCertificates (not $access.tlsSecret) }}{{ fail "access.clientCertificates needs access.tlsSecret" }}{{ end -}}
{{- if and $access.operatorTls (not $access.tlsSecret) }}{{ fail "access.operatorTls needs access.tlsSecret" }}{{ end -}}
{{- if not (or $access.callersSecret $access.clientCertificates $access.insecure) }}{{ fail "nobody may call yet: set access.callersSecret (API keys), access.tlsSecret and access.clientCertificates, or access.insecure=true" }}{{ end -}}
{{- if $access.callersSecret }}
- name: ENTITLEMENTS_CALLERS
  value: /etc/entitlements/callers/callers.toml
{{- end }}
{{- if $access.tlsSecret }}
- name: ENTITLEMENTS_API_TLS_CERT
  value: /etc/entitlements/tls/tls.crt
- name: ENTITLEMENTS_API_TLS_KEY
  value: /etc/entitlements/tls/tls.key
{{- end }}
{{- if $access.operatorTls }}
- name: ENTITLEMENTS_OPERATOR_TLS_CERT
  value: /etc/entitlements/tls/tls.crt
- name: ENTITLEMENTS_OPERATOR_TLS_KEY
  value: /etc/entitlements/tls/tls.key
{{- end }}
{{- if $access.clientCertificates }}
- name: ENTITLEMENTS_API_CLIENT_CA
  value: /etc/entitlements/tls/ca.crt
{{- end }}
{{- if $access.insecure }}
- name: ENTITLEMENTS_INSECURE
  value: "true"
{{- end }}
{{- end }}

{{- /* Where a probe asks, given the path. */}}
{{- define "entitlements.probe" -}}
httpGet: { path: {{ index . 1 }}, port: operator, scheme: {{ ternary "HTTPS" "HTTP" (index . 0).Values.access.operatorTls }} }
{{- end }}

{{- /* The mounted folders, by name: mounted whole, or a changed content would not reach the pod. */}}
{{- define "entitlements.mounts" -}}
{{- $mounts := dict -}}
{{- if .Values.catalog }}{{ $_ := set $mounts "catalog" (dict "configMap" (dict "name" (include "entitlements.name" .))) }}{{ end -}}
{{- with .Values.access.callersSecret }}{{ $_ := set $mounts "callers" (dict "secret" (dict "secretName" .)) }}{{ end -}}
{{- with .Values.access.tlsSecret }}{{ $_ := set $mounts "tls" (dict "secret" (dict "secretName" .)) }}{{ end -}}
{{- toYaml $mounts -}}
{{- end }}
