// Validates objects.json against the schemas of the custom resources, as the packages @kubernetes-models/* carry them.
import { readFileSync } from "node:fs";

const packages = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
let faults = 0;
for (const item of JSON.parse(readFileSync("objects.json"))) {
  const [group, version] = item.apiVersion.split("/");
  try {
    if (!packages[group]) throw new Error(`no schema of ${item.apiVersion} is known`);
    const model = await import(`@kubernetes-models/${packages[group]}/${group}/${version}/${item.kind}`);
    new model[item.kind](item).validate();
  } catch (error) {
    console.log(`${item.kind} ${item.metadata.name}: ${error.message}`);
    faults += 1;
  }
}
process.exit(faults ? 1 : 0);
