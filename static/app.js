// Starts each behaviour. The page reads and its forms post without any of this.
import * as page from "./page.js";
import { startCharts } from "./chart.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startOthers } from "./others.js";
import { startRows } from "./rows.js";
import { startSteppers } from "./stepper.js";

page.startTheme();
page.startDialogs();
page.startAnswers();
page.startMenus();
page.startTabs();
page.startCopy();
page.startToasts();
startOthers();
page.startAges();
startRows();
startSteppers();
startKeys();
startCharts();
startLive();
