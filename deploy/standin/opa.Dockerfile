# Stands in for openpolicyagent/opa:*-static: /opa and uid 1000. On Debian rather than on nothing,
# because an `opa` built on this machine may want the C library.
ARG BASE
FROM ${BASE}
COPY opa /opa
USER 1000:1000
EXPOSE 8181
ENTRYPOINT ["/opa"]
CMD ["run"]
