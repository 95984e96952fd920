{{/*
What the services are. The workloads, their Services and NetworkPolicies are made of this table alone.

  kind       StatefulSet where a pod must keep its name
  alive      the port of /livez and /readyz; ports: all that the service listens on
  asks       the services whose internal ports it calls
  upstreams  reads rejoinder.toml; apiKeys: asks clients for keys; webhookKeys: seals secrets of endpoints
  store      keeps a store on a disk of its pod
  internet   may call out: "models" to the peers of networkPolicy.upstreams, "webhooks" to public addresses
  leaves     seconds between a pod's end and its SIGTERM: balancers hear of the end first
*/}}
{{- define "rejoinder.services" -}}
ingest:    {kind: Deployment, alive: public, ports: [public, internal], asks: [replay], upstreams: true, apiKeys: true, leaves: 5}
replay:    {kind: StatefulSet, alive: public, ports: [public, internal], asks: [ingest, analytics, webhooks], apiKeys: true, store: true, leaves: 5}
executor:  {kind: Deployment, alive: admin, ports: [admin], asks: [replay], upstreams: true, internet: models, leaves: 0}
projector: {kind: Deployment, alive: admin, ports: [admin], asks: [], leaves: 0}
analytics: {kind: StatefulSet, alive: internal, ports: [internal], asks: [], upstreams: true, leaves: 5}
webhooks:  {kind: Deployment, alive: internal, ports: [internal], asks: [], webhookKeys: true, internet: webhooks, leaves: 5}
{{- end }}

{{- define "rejoinder.ports" -}}
{public: 8000, internal: 8001, admin: 8002}
{{- end }}

{{/* The names of the services that are deployed, as {"names": […]}. */}}
{{- define "rejoinder.deployed" -}}
{{- $values := .Values -}}
{{- $names := list -}}
{{- range $name, $_ := include "rejoinder.services" . | fromYaml -}}
{{- if dig "enabled" true (index $values $name) -}}{{- $names = append $names $name -}}{{- end -}}
{{- end -}}
{{- dict "names" $names | toJson -}}
{{- end }}
