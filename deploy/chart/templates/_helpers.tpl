{{/* The driver is installed once per cluster, so names are fixed and do not carry the release's. */}}
{{- define "vgpu-dra.controller" -}}vgpu-controller{{- end -}}
{{- define "vgpu-dra.plugin" -}}vgpu-kubelet-plugin{{- end -}}

{{- define "vgpu-dra.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "vgpu-dra.labels" -}}
app.kubernetes.io/part-of: vgpu-dra
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "vgpu-dra.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}
