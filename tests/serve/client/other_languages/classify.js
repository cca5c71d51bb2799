// Classify images: node classify.js HOST:PORT MODEL IMAGE...
// Needs the packages @grpc/grpc-js and @grpc/proto-loader, and unfreeze.proto.
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const PROTO = process.env.UNFREEZE_PROTO || path.join(__dirname, "unfreeze.proto");
const definition = protoLoader.loadSync(PROTO, { keepCase: true, defaults: true });
const { Classifier } = grpc.loadPackageDefinition(definition).unfreeze.v1;

const [target, model, ...files] = process.argv.slice(2);
const client = new Classifier(target, grpc.credentials.createInsecure());
const request = { model, images: files.map((file) => fs.readFileSync(file)), top_k: 2 };
const deadline = new Date(Date.now() + 30_000);

client.predict(request, { deadline }, (error, response) => {
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
  } else {
    for (const [number, prediction] of response.predictions.entries()) {
      for (const { label, score } of prediction.labels) {
        console.log(`${files[number]}\t${label}\t${score.toFixed(4)}`);
      }
    }
  }
  client.close();
});
