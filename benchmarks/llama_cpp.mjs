// Texts gone on from together by llama.cpp: `node llama_cpp.mjs MODEL.gguf COUNT MOST THREADS`, for `generation.py`.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const {getLlama, LlamaCompletion} = await import(pathToFileURL(require.resolve("node-llama-cpp")));

const [path, count, most, threads] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: threads});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({sequences: count, contextSize: 256, threads});
const writers = Array.from({length: count}, () => new LlamaCompletion({contextSequence: context.getSequence()}));
const goOn = (writer, text) => writer.generateCompletion(text, {maxTokens: most, temperature: 0});

await goOn(writers[0], "Once upon a time"); // the first is slower
const texts = JSON.parse(await new Response(process.stdin).text());
const began = performance.now();
const said = await Promise.all(texts.map((text, number) => goOn(writers[number], text)));
const seconds = (performance.now() - began) / 1000;
const pieces = said.reduce((sum, text) => sum + model.tokenize(text).length, 0);
console.log(JSON.stringify({seconds, pieces, text: said[0]}));
process.exit(0);
